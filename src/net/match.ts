/** The three answers for unfinished bytes: yes with what was found, no, or more bytes are needed to tell. */
export type Match<T> = { readonly is: 'yes'; readonly value: T } | typeof NO | typeof MORE

/** The bytes are not this, whatever follows. */
export const NO = { is: 'no' } as const

/** The bytes so far may become this. */
export const MORE = { is: 'more' } as const

/** The bytes are this. */
export const yes = <T>(value: T): Match<T> => ({ is: 'yes', value })
