export { opaque as http2 } from './opaque.ts'
