import { stringify } from 'yaml'

/** A value on one line, as it would be written in a document. */
export const written = (value: unknown): string =>
  stringify(value, { collectionStyle: 'flow', lineWidth: 0, flowCollectionPadding: true }).trim()
