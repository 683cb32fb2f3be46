/** What label values over the budget are counted as. */
export const OVERFLOW = '(other)'

/**
 * Keeps the number of different values of a label bounded, whatever the traffic brings: the first `max` values have
 * series of their own, all further ones share OVERFLOW. A value keeps what it got for the life of the process, because
 * a series that changes its meaning cannot be summed.
 */
export const labelBudget = (max: number): ((value: string) => string) => {
  const known = new Set<string>()
  return (value) => {
    if (known.has(value)) return value
    if (known.size >= max) return OVERFLOW
    known.add(value)
    return value
  }
}
