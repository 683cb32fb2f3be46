// The same cases on sockets that are read and written without streams.
process.env.SLUICE_TEST_DIRECT = 'yes'
await import('./http2Routing.test.ts')

export {}
