import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Command } from '../net/commandLine.ts'

const SCRIPT = fileURLToPath(new URL('../../scripts/demo.sh', import.meta.url))

/** `sluice demo`: the demonstration of `npm run demo`. */
export const demoCommand: Command = {
  name: 'demo',
  summary: 'show on this machine what Sluice does: a pod in network namespaces, real traffic, every decision',
  usage: '',
  flagsOnly: true,
  options: {},
  examples: ['sluice demo   # in a checkout; as root, or where users may make namespaces'],
  run: (_, io) => {
    if (!existsSync(SCRIPT)) {
      io.err('sluice demo: the demo is not part of this package; in a checkout of the source run: npm run demo\n')
      return Promise.resolve(1)
    }
    return new Promise((resolve, reject) => {
      const child = spawn('bash', [SCRIPT], { stdio: ['ignore', 'pipe', 'pipe'] })
      child.stdout.on('data', (bytes: Buffer) => io.out(bytes.toString()))
      child.stderr.on('data', (bytes: Buffer) => io.err(bytes.toString()))
      child.once('error', reject)
      child.once('close', (code) => resolve(code ?? 1))
      // Stopped with us, so that it takes its namespaces down in order.
      void io.stopped.then(() => child.kill('SIGTERM'))
    })
  },
}
