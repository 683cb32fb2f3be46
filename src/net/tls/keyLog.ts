import { closeSync, fchmodSync, openSync, writeSync } from 'node:fs'

/** Writes the secrets of sessions in NSS key log format, for Wireshark and `sluice replay`. */
export interface KeyLog {
  readonly write: (line: Buffer) => void
  /** Each line from now on. Returns how to stop listening. */
  readonly subscribe: (hear: (line: Buffer) => void) => () => void
  readonly close: () => void
}

/** Opens a key log for appending. Whoever reads it reads every connection, so it is the owner's alone. */
export const openKeyLog = (path: string): KeyLog => {
  const file = openSync(path, 'a', 0o600)
  fchmodSync(file, 0o600) // a file that was there before keeps its mode otherwise
  const hearers = new Set<(line: Buffer) => void>()
  return {
    write: (line) => {
      for (const hear of hearers) hear(line)
      writeSync(file, line)
    },
    subscribe: (hear) => {
      hearers.add(hear)
      return () => hearers.delete(hear)
    },
    close: () => closeSync(file),
  }
}
