import * as v from 'valibot'
import { configPaths } from './admin/configPaths.ts'
import { loadPolicy, problemsOf } from './admin/livePolicy.ts'
import { mint, readSigningKey } from './gateway/token.ts'
import { systemClock } from './net/clock.ts'
import { type Arguments, type Command, type Io, single, UsageError } from './net/commandLine.ts'
import { readSecret, type SecretPlace } from './net/secret.ts'
import { duration } from './policy/shape.ts'

/** `sluice token`: a token for private ports, by the keys of the policy. */
export const tokenCommand: Command = {
  name: 'token',
  summary: 'mint a token for private exposed ports, by the first of the configured keys',
  usage: '(--task NAME | --prefix PREFIX/) [--ttl 1h] [--keys FILE | --config PATH] [--algorithm HS384]',
  flagsOnly: true,
  options: {
    task: { value: 'NAME', help: 'the one task it opens, such as acmeCo/in' },
    prefix: { value: 'PREFIX/', help: 'opens all tasks whose names begin so; it ends with a slash' },
    ttl: { value: 'TIME', help: 'how long it is good: 10m, 1h, 7d; 1h when not given' },
    subject: { value: 'NAME', help: 'whom it is for: the claim "sub"' },
    keys: {
      value: 'FILE',
      help: 'the file of keys, instead of that of the policy; or a private key as PEM (PKCS #8) or JWK, Ed25519 or P-256',
    },
    algorithm: { value: 'HS256|HS384', help: 'how a key in base64 signs; HS256 when not given' },
    config: {
      value: 'PATH',
      multiple: true,
      help: 'the policy whose gateway has the keys; by default as for `sluice serve`',
    },
  },
  examples: [
    'sluice token --task acmeCo/in --ttl 10m --keys gateway.keys',
    'curl -H "Authorization: Bearer $(sluice token --prefix acmeCo/ --config policy/)" https://…',
  ],
  run: async (args, io) => {
    const [task, prefix] = [single(args, 'task'), single(args, 'prefix')]
    if (!task === !prefix) throw new UsageError('expected either --task or --prefix')
    if (prefix !== undefined && !/[^/]\/$/.test(prefix))
      throw new UsageError(`--prefix ${prefix} does not end with a slash after a name: "acmeCo/in" would be a task`)
    const ttl = v.safeParse(duration('1s', '24d'), single(args, 'ttl') ?? '1h')
    if (!ttl.success) throw new UsageError(`--ttl: ${ttl.issues[0].message}`)
    const algorithm = single(args, 'algorithm') ?? 'HS256'
    if (algorithm !== 'HS256' && algorithm !== 'HS384')
      throw new UsageError(`--algorithm ${algorithm}: expected HS256 or HS384; a private key says its own`)
    const found = await keyPlace(args, io)
    if (typeof found === 'string') {
      io.err(`${found}\n`)
      return 1
    }
    try {
      const key = await readSigningKey(await readSecret(found.place, io.env), algorithm)
      const subject = single(args, 'subject')
      const { issuer } = found
      io.out(`${await mint(key, { task, prefix, ttlMs: ttl.output, now: systemClock.time(), subject, issuer })}\n`)
      return 0
    } catch (error) {
      io.err(`${(error as Error).message}\n`)
      return 1
    }
  },
}

/** Where the keys are, or why that cannot be said. */
const keyPlace = async (
  args: Arguments,
  io: Io,
): Promise<{ readonly place: SecretPlace; readonly issuer?: string | undefined } | string> => {
  const file = single(args, 'keys')
  if (file !== undefined) return { place: { file } }
  const loaded = await loadPolicy(configPaths(args, io))
  if (loaded.is === 'mistaken') return problemsOf(loaded).join('\n')
  const { keys, domain } = loaded.policy.sections.gateway
  if (keys === undefined) return 'the policy has no `gateway: { keys: … }` to sign with; --keys FILE names another'
  return { place: keys, issuer: domain }
}
