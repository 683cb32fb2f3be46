// What is bounded, and what a fault costs, on sockets that are read and written without streams.
process.env.SLUICE_TEST_DIRECT = 'yes'
await import('./httpBounds.test.ts')
await import('./fault.test.ts')

export {}
