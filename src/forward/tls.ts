export { opaque as tls } from './opaque.ts'
