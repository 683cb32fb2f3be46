/** How to choose among the endpoints of a name, and when to leave one alone. Times in milliseconds. */
export interface BalanceSettings {
  readonly algorithm: 'p2c' | 'roundRobin' | 'leastRequest' | 'hash'
  /** Where we are: endpoints there come first. */
  readonly zone: string | undefined
  /** Below this share of ready endpoints (by number) our own zone is preferred no more. */
  readonly zoneMinPercent: number
  /** The latency expected of an endpoint before anything was measured. */
  readonly rttMs: number
  /** After so long the past counts for 1/e. */
  readonly decayMs: number
  /** Requests, or connections, under way at one endpoint at a time. */
  readonly inFlightMax: number
  /** How many may wait for an endpoint. */
  readonly queueMax: number
  /** So long without a ready endpoint, and nobody waits any more. */
  readonly failfastMs: number
  /** Pauses after a failed connect: the first, and the longest; each further one doubles. */
  readonly backoffMs: number
  readonly backoffMsMax: number
  readonly outlier: OutlierSettings
}

/** When an endpoint that answers badly is left alone. */
export interface OutlierSettings {
  /** So many failures in a row eject; 0: never. */
  readonly failuresInRow: number
  /** Fewer than this percentage of good answers within the window eject; 0: never. */
  readonly successPercent: number
  /** Fewer answers than this in the window say nothing. */
  readonly requestsMin: number
  readonly windowMs: number
  /** How long: the first time, and the longest; each further one doubles. */
  readonly ejectionMs: number
  readonly ejectionMsMax: number
  /** No more than this share of the endpoints is ejected at a time, and never the last that is ready. */
  readonly ejectedPercentMax: number
}
