/**
 * Runs inside a network namespace and evaluates the functions it is sent (see Space.evaluate in netns.ts), so that a test
 * can say in one place what happens on both sides. What a function keeps in `here` is there for the next one.
 */
const modules = {
  net: await import('node:net'),
  tls: await import('node:tls'),
  http: await import('node:http'),
  http2: await import('node:http2'),
  crypto: await import('node:crypto'),
  events: await import('node:events'),
  here: {} as Record<string, unknown>,
}

/** What an evaluated function gets as its first argument. */
export type Modules = Omit<typeof modules, 'here'> & {
  // biome-ignore lint/suspicious/noExplicitAny: what is kept between two evaluations is known to the test alone.
  readonly here: Record<string, any>
}

process.on('message', async ({ id, source, argument }: { id: number; source: string; argument: unknown }) => {
  try {
    const work = new Function(`return (${source})`)() as (modules: Modules, argument: unknown) => unknown
    process.send?.({ id, value: await work(modules, argument) })
  } catch (error) {
    process.send?.({ id, error: (error as Error).stack ?? String(error) })
  }
})
process.on('disconnect', () => process.exit())
process.send?.('ready')
