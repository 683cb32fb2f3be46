/** A cache that forgets what was not asked for longest. */
export interface RecentlyUsed<T> {
  readonly get: (key: string, make: () => T) => T
}

/** Holds at most `max` values: keys come from peers too, and there is no end to those. */
export const recentlyUsed = <T>(max: number): RecentlyUsed<T> => {
  const held = new Map<string, T>()
  return {
    get: (key, make) => {
      const found = held.get(key)
      const value = found === undefined ? make() : found
      held.delete(key)
      held.set(key, value)
      if (held.size > max) held.delete(held.keys().next().value!)
      return value
    },
  }
}
