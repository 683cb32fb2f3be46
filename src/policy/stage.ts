/** The moments at which the policy is asked, in order; each knows all that the earlier ones knew. */
export const STAGES = ['connection', 'detected', 'secured', 'request'] as const

export type Stage = (typeof STAGES)[number]

/** What each moment is, for the reader of an error. */
export const STAGE_SAYS: Record<Stage, string> = {
  connection: 'when the connection is accepted, before a byte is read',
  detected: 'once the first bytes are read',
  secured: 'once TLS, if Sluice terminates it, is set up',
  request: 'with each HTTP request',
}

/** Whether `a` comes after `b`. */
export const isLater = (a: Stage, b: Stage): boolean => STAGES.indexOf(a) > STAGES.indexOf(b)
