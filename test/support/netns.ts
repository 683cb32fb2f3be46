import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Outcome, RequestOutcome } from '../../src/telemetry/outcome.ts'
import type { Modules } from './agent.ts'

/**
 * Two network namespaces joined by a cable: `pod`, with the workload and the proxy, and `peer`, the world outside. They
 * have no names and live only as long as their processes, which die with this one: a crash leaves nothing behind.
 * Anything that the pod sends to an address which is not the peer's is swallowed by the peer: a black hole.
 */
export interface Lab {
  readonly pod: Space
  readonly peer: Space
  /** A directory of its own, removed at the end. */
  readonly directory: string
  /** Runs scripts/iptables/redirect.sh in the pod, with the flags that spare the proxy of this lab; what it said. */
  redirect(verb: 'apply' | 'remove', ...flags: string[]): Promise<string>
  /** Starts `sluice serve` in the pod, with this policy and what else is in `files`, and waits until it listens. */
  serve(policy: string, ...files: readonly string[]): Promise<RunningProxy>
  /** The same two in the peer, for a mesh of two. */
  readonly there: Pick<Lab, 'redirect' | 'serve'>
  close(): Promise<void>
}

/** One namespace. */
export interface Space {
  readonly addresses: Readonly<Record<Family, string>>
  start(command: readonly string[], options?: StartOptions): Running
  run(command: readonly string[], options?: StartOptions & { readonly input?: string }): Promise<Finished>
  /** Runs a function, which may use its arguments and nothing else, in a Node process inside. */
  evaluate<A, R>(work: (modules: Modules, argument: A) => R, argument: A): Promise<Awaited<R>>
}

export type Family = 4 | 6

interface StartOptions {
  readonly env?: Readonly<Record<string, string>>
  /** What to put before the command: setpriv and its flags. */
  readonly as?: readonly string[]
  readonly timeoutMs?: number
}

/** A program at work. */
export interface Running {
  readonly child: ChildProcess
  /** Resolves with the first match in what the program wrote, to either stream, from its start. */
  printed(pattern: RegExp, timeoutMs?: number): Promise<RegExpExecArray>
  readonly finished: Promise<Finished>
}

/** What a program left. */
export interface Finished {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** The record of a request as the log has it: with the connection that it came on. */
export type LoggedRequest = RequestOutcome & Pick<Outcome, 'direction' | 'peer' | 'destination'>

/** A running `sluice serve`. */
export interface RunningProxy {
  readonly running: Running
  readonly outcomes: readonly Outcome[]
  /** The first Outcome that fits, past or to come; throws when none comes. */
  outcome(fits: (outcome: Outcome) => boolean, timeoutMs?: number): Promise<Outcome>
  /** The same for the record of an HTTP request. */
  request(fits: (request: LoggedRequest) => boolean, timeoutMs?: number): Promise<LoggedRequest>
  /** Forgets the Outcomes and requests so far. */
  forget(): void
  /** Puts another policy in force, by SIGHUP: quicker than a restart, but not for what is read only at the start. */
  reload(policy: string): Promise<void>
  /** SIGTERM, and how it ended. */
  stop(): Promise<Finished>
}

const ROOT = resolve(import.meta.dirname, '../..')
const WAIT_MS = 15_000 // far more than anything here takes, even on a machine that is busy with other tests
const PROXY_UID = 2102
/** Without root only one user and one group exist in the namespace, and a mark tells the proxy apart. */
const PROXY_MARK = 0x51

/** The test runner has its hook loaded into every Node process that is started; here that must not be. */
const WITHOUT_HOOK = ['env', '-u', 'NODE_OPTIONS']

const isRoot = process.getuid?.() === 0

/** Whether this system lets us make namespaces: as root, or in a user namespace. */
export const labIsPossible = async (): Promise<boolean> => {
  const { code } = await collect(spawn('unshare', [...(isRoot ? [] : ['-Ur']), '-n', 'true'], { stdio: 'pipe' }), {})
  return code === 0
}

/** Builds the lab. Whoever opens it closes it: `t.teardown(lab.close)`. */
export const openLab = async (): Promise<Lab> => {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-lab-'))
  chmodSync(directory, 0o755) // the proxy is another user
  const first = await holder(['unshare', ...(isRoot ? [] : ['-Ur']), '-n', 'cat'])
  const enterUser = isRoot ? [] : ['nsenter', '-t', `${first.pid}`, '-U', '--preserve-credentials', '--']
  const second = await holder([...enterUser, 'unshare', '-n', 'cat'])
  const children = new Set<ChildProcess>()
  const pod = space(first.pid!, { 4: '10.99.0.2', 6: 'fd99::2' }, children)
  const peer = space(second.pid!, { 4: '10.99.0.1', 6: 'fd99::1' }, children)
  const sweep = () => {
    for (const child of children) child.kill('SIGKILL')
    killAllIn([first.pid!, second.pid!])
    for (const each of [first, second]) each.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  }
  process.once('exit', sweep) // a test that throws leaves nothing behind either
  const close = async () => {
    process.off('exit', sweep)
    const all = [...children, first, second].filter(
      ({ exitCode, signalCode }) => exitCode === null && signalCode === null,
    )
    const gone = all.map((child) => once(child, 'exit'))
    sweep()
    await Promise.all(gone)
  }
  try {
    await cable(pod, peer, second.pid!)
    await Promise.all([pod, peer].map((each) => each.evaluate(() => 'ready', null)))
  } catch (error) {
    await close()
    throw error
  }
  const identity = await proxyIdentity(pod)
  const proxyIn = (where: Space, name: string): Lab['there'] => ({
    redirect: (verb, ...flags) =>
      succeed(where, ['bash', join(ROOT, 'scripts/iptables/redirect.sh'), verb, ...identity.flags, ...flags]),
    serve: (policy, ...files) => serve(where, join(directory, name), identity, policy, files),
  })
  return { pod, peer, directory, close, ...proxyIn(pod, 'policy.yaml'), there: proxyIn(peer, 'there.yaml') }
}

/** Kills whoever lives in the network namespaces of these processes: servers leave children of their own. */
const killAllIn = (holders: readonly number[]): void => {
  const namespaceOf = (pid: string): string | undefined => {
    try {
      return readlinkSync(`/proc/${pid}/ns/net`)
    } catch {
      return undefined // gone, or not ours to look at
    }
  }
  const wanted = new Set(holders.map((pid) => namespaceOf(`${pid}`)))
  wanted.delete(undefined)
  wanted.delete(namespaceOf('self'))
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && !holders.includes(Number(name)))) {
    if (wanted.has(namespaceOf(pid))) process.kill(Number(pid), 'SIGKILL')
  }
}

const cable = async (pod: Space, peer: Space, peerPid: number): Promise<void> => {
  await succeed(pod, ['ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', `${peerPid}`])
  for (const each of [pod, peer]) {
    const other = each === pod ? peer : pod
    const lines = [
      'link set lo up',
      `addr add ${each.addresses[4]}/24 dev eth0`,
      `addr add ${each.addresses[6]}/64 dev eth0 nodad`,
      'link set eth0 up',
      ...(each === pod
        ? [`route add default via ${other.addresses[4]}`, `route add ::/0 via ${other.addresses[6]}`]
        : []),
    ]
    await succeed(each, ['ip', '-batch', '-'], lines.join('\n'))
  }
}

const succeed = async (where: Space, command: readonly string[], input?: string): Promise<string> => {
  const { code, out, err } = await where.run(command, input === undefined ? {} : { input })
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}:\n${out}${err}`)
  return out
}

interface Identity {
  readonly as: readonly string[]
  readonly flags: readonly string[]
  readonly policy: string
}

/** How the proxy is told apart: by its user, or, where that user cannot read this checkout, by its group. */
const proxyIdentity = async (pod: Space): Promise<Identity> => {
  if (!isRoot) {
    return {
      as: [],
      flags: ['--proxy-uid', '', '--proxy-mark', `${PROXY_MARK}`],
      policy: `sockets: { mark: ${PROXY_MARK} }\n`,
    }
  }
  const group = ['--regid', `${PROXY_UID}`, '--clear-groups']
  const asUser = ['setpriv', '--reuid', `${PROXY_UID}`, ...group]
  const { code } = await pod.run([...asUser, 'test', '-r', join(ROOT, 'src/main.ts')])
  return code === 0
    ? { as: asUser, flags: ['--proxy-uid', `${PROXY_UID}`], policy: '' }
    : { as: ['setpriv', ...group], flags: ['--proxy-uid', '', '--proxy-gid', `${PROXY_UID}`], policy: '' }
}

/** A process that does nothing but hold its namespaces, until its standard input ends, as it does when we die. */
const holder = async (command: readonly string[]): Promise<ChildProcess> => {
  const child = spawn(command[0]!, command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
  child.stdin.write('ready\n')
  await Promise.race([
    once(child.stdout, 'data'),
    once(child, 'exit').then(([code]) => {
      throw new Error(`cannot make a network namespace: ${command.join(' ')} ended with ${code}`)
    }),
  ])
  return child
}

const space = (pid: number, addresses: Space['addresses'], children: Set<ChildProcess>): Space => {
  const user = isRoot ? [] : ['-U', '--preserve-credentials']
  const launch = (command: readonly string[], options: StartOptions, stdio: StdioOptions): ChildProcess => {
    const prefix = ['-t', `${pid}`, ...user, '-n', '--', 'setpriv', '--pdeathsig', 'KILL', ...(options.as ?? [])]
    const child = spawn('nsenter', [...prefix, ...WITHOUT_HOOK, ...command], {
      stdio,
      serialization: 'advanced',
      env: { ...process.env, ...options.env },
    })
    children.add(child)
    child.once('exit', () => children.delete(child))
    return child
  }
  const start: Space['start'] = (command, options = {}) =>
    running(launch(command, options, ['ignore', 'pipe', 'pipe']), options)
  let agent: Promise<Agent> | undefined
  return {
    addresses,
    start,
    run: async (command, { input, ...options } = {}) => {
      const child = launch(command, options, ['pipe', 'pipe', 'pipe'])
      child.stdin?.on('error', () => {}) // the program may not want to read what it is given
      child.stdin?.end(input)
      return collect(child, { timeoutMs: WAIT_MS * 2, ...options })
    },
    evaluate: async (work, argument) => {
      agent ??= startAgent(
        launch([process.execPath, join(ROOT, 'test/support/agent.ts')], {}, ['ignore', 'inherit', 'inherit', 'ipc']),
      )
      return (await agent)(work.toString(), argument) as never
    },
  }
}

type Agent = (source: string, argument: unknown) => Promise<unknown>

const startAgent = async (child: ChildProcess): Promise<Agent> => {
  await once(child, 'message')
  const waiting = new Map<number, PromiseWithResolvers<unknown>>()
  child.on('message', ({ id, value, error }: { id: number; value: unknown; error?: string }) => {
    const { resolve: settle, reject } = waiting.get(id)!
    waiting.delete(id)
    if (error === undefined) settle(value)
    else reject(new Error(error))
  })
  child.on('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the namespace is gone'))
  })
  let last = 0
  return (source, argument) => {
    const answer = Promise.withResolvers<unknown>()
    waiting.set(++last, answer)
    child.send({ id: last, source, argument })
    return answer.promise
  }
}

const running = (child: ChildProcess, options: StartOptions): Running => {
  let text = ''
  const hearers = new Set<() => void>()
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (bytes: Buffer) => {
      text += bytes.toString()
      for (const hear of hearers) hear()
    })
  }
  const finished = collect(child, options)
  const printed = (pattern: RegExp, timeoutMs = WAIT_MS): Promise<RegExpExecArray> =>
    eventually(
      () => pattern.exec(text) ?? undefined,
      (hear) => {
        hearers.add(hear)
        return () => hearers.delete(hear)
      },
      timeoutMs,
      () => `${child.spawnargs.join(' ')} never printed ${pattern}:\n${text}`,
    )
  return { child, printed, finished }
}

/** Asks again each time that something was heard. */
const eventually = <T>(
  ask: () => T | undefined,
  listen: (hear: () => void) => () => void,
  timeoutMs: number,
  complaint: () => string,
): Promise<T> =>
  new Promise((settle, reject) => {
    const timer = setTimeout(() => {
      stop()
      reject(new Error(complaint()))
    }, timeoutMs)
    const hear = () => {
      const found = ask()
      if (found === undefined) return
      clearTimeout(timer)
      stop()
      settle(found)
    }
    const stop = listen(hear)
    hear()
  })

const collect = (child: ChildProcess, { timeoutMs }: StartOptions): Promise<Finished> =>
  new Promise((settle, reject) => {
    let out = ''
    let err = ''
    child.stdout?.on('data', (bytes: Buffer) => (out += bytes.toString('latin1')))
    child.stderr?.on('data', (bytes: Buffer) => (err += bytes.toString('latin1')))
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), timeoutMs)
    child.once('error', reject)
    child.once('close', (code) => {
      clearTimeout(timer)
      settle({ code, out, err })
    })
  })

const serve = async (
  where: Space,
  file: string,
  identity: Identity,
  policy: string,
  files: readonly string[],
): Promise<RunningProxy> => {
  const write = (text: string) =>
    writeFileSync(file, `apiVersion: sluice/v1\nlog: { format: json }\n${identity.policy}${text}`)
  write(policy)
  const running = where.start(
    [join(ROOT, 'bin/sluice'), 'serve', ...[file, ...files].flatMap((each) => ['--config', each])],
    { as: identity.as },
  )
  const outcomes: Outcome[] = []
  const requests: LoggedRequest[] = []
  const hearers = new Set<() => void>()
  let reloads = 0
  let rest = ''
  running.child.stdout?.on('data', (bytes: Buffer) => {
    const lines = (rest + bytes.toString()).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      const found = JSON.parse(line) as { msg: string }
      if (found.msg === 'connection') outcomes.push(found as Outcome & typeof found)
      if (found.msg === 'the policy was replaced') reloads += 1
      if (found.msg === 'request') requests.push(found as LoggedRequest & typeof found)
    }
    for (const hear of hearers) hear()
  })
  const listen = (hear: () => void) => {
    hearers.add(hear)
    return () => hearers.delete(hear)
  }
  const firstOf =
    <T>(records: readonly T[]) =>
    (fits: (record: T) => boolean, timeoutMs = WAIT_MS): Promise<T> =>
      eventually(
        () => records.find(fits),
        listen,
        timeoutMs,
        () => `no such record among:\n${records.map((each) => JSON.stringify(each)).join('\n')}`,
      )
  await Promise.race([
    running.printed(/is ready/),
    running.finished.then(({ code, err }) => {
      throw new Error(`sluice serve ended with ${code}:\n${err}`)
    }),
  ])
  return {
    running,
    outcomes,
    outcome: firstOf(outcomes),
    request: firstOf(requests),
    forget: () => {
      outcomes.length = 0
      requests.length = 0
    },
    reload: async (next) => {
      const before = reloads
      write(next)
      running.child.kill('SIGHUP')
      await eventually(
        () => (reloads > before ? true : undefined),
        listen,
        WAIT_MS,
        () => `the policy was not replaced by\n${next}`,
      )
    },
    stop: () => {
      running.child.kill('SIGTERM')
      return running.finished
    },
  }
}
