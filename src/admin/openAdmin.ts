import type { Io } from '../net/commandLine.ts'
import { readSecret } from '../net/secret.ts'
import type { World } from '../proxy.ts'
import type { Log } from '../telemetry/log.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import { createPulse, type Pulse } from '../telemetry/pulse.ts'
import type { Recorder } from '../telemetry/recording.ts'
import type { TrialCounts } from '../telemetry/trialCounts.ts'
import { type Candidate, candidateRoutes } from './candidate.ts'
import { idleRules } from './idleRules.ts'
import { balanceRoutes } from './liveBalance.ts'
import { certificateWarnings, missingCertificates } from './liveTls.ts'
import { pageRoutes } from './page.ts'
import { adminRoutes } from './routes.ts'
import { type AdminServer, startAdmin } from './server.ts'
import { tapRoutes } from './tap.ts'
import { captureRoutes } from './tapCapture.ts'

/** What the admin server of a process shows and may do. */
export interface AdminProcess {
  readonly world: World
  readonly registry: Metrics['registry']
  readonly log: Log
  readonly env: Io['env']
  readonly version: string
  readonly candidate: Candidate
  readonly counts: TrialCounts
  readonly recorder: Recorder
  readonly opened: (server: AdminServer) => void
  /** Begins an orderly stop, where the configuration allows it. */
  readonly shutdown: () => void
}

/** Opens the admin server at each of its addresses, and tells of each. Rejects with an Error that names the address. */
export const openAdmin = async ({
  world,
  registry,
  log,
  env,
  version,
  candidate,
  counts,
  recorder,
  opened,
  shutdown,
}: AdminProcess): Promise<void> => {
  const { ledger, policy, clock, http, tls } = world
  const { admin, tls: limits } = policy().sections
  const token = admin.token && (await readSecret(admin.token, env))
  const warnings = () => [
    ...(tls ? certificateWarnings(tls, clock.time(), limits.warnBeforeExpiry) : []),
    ...idleRules(policy(), pulse, clock.time()),
  ]
  const state = adminRoutes({
    ledger,
    policy,
    registry,
    log,
    now: clock.now,
    notReady: () => [...(ledger.draining ? ['it is draining'] : []), ...(tls ? missingCertificates(tls) : [])],
    shutdown: admin.shutdown ? shutdown : undefined,
  })
  const pulse: Pulse = createPulse(ledger, clock, warnings)
  const page = pageRoutes({ ledger, policy, pulse, time: clock.time, version, channels: () => world.channels })
  const captures = captureRoutes(recorder, admin.captures, version)
  const routes = {
    ...state,
    ...page,
    ...tapRoutes(ledger),
    ...captures,
    ...candidateRoutes(candidate, counts),
    ...balanceRoutes(http.balancers, clock),
  }
  for (const address of admin.address) opened(await startAdmin({ address, routes, token }))
}
