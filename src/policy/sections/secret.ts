import * as v from 'valibot'
import { mistake, object, text } from '../shape.ts'

/** Where a secret is kept: documents are copied, mailed and committed, so it never stands in one itself. */
export type SecretSource = { readonly file: string } | { readonly env: string }

/** `{ file: PATH }` or `{ env: NAME }`. */
export const secret = v.pipe(
  object({
    file: v.optional(text('the path of a file whose content is the secret')),
    env: v.optional(text('the name of an environment variable')),
  }),
  v.rawTransform(({ dataset, addIssue, NEVER }): SecretSource => {
    const { file, env } = dataset.value
    if (file !== undefined && env === undefined) return { file }
    if (env !== undefined && file === undefined) return { env }
    addIssue({ message: mistake('expected either `file:` or `env:`, and not both').mistake })
    return NEVER
  }),
  v.description('where a secret is kept: `file`, or `env`'),
)

/** The same place, with a relative path made one that can be opened. */
export const placed = (source: SecretSource, open: (path: string) => string): SecretSource =>
  'file' in source ? { file: open(source.file) } : source
