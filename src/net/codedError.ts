/** An Error with a `code`, as the errors of the system have it: what the network did, told apart without its message. */
export const codedError = (code: string, message: string): Error => Object.assign(new Error(message), { code })
