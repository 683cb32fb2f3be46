export { opaque as http1 } from './opaque.ts'
