import { mistake, named, object, readText } from '../shape.ts'
import { section } from './section.ts'

const path = readText('the path of a PEM file', (text) => {
  // Documents are copied, mailed and committed; keys must not be.
  if (text.includes('-----BEGIN'))
    return mistake('expected the path of a PEM file, not its contents: keys are never inline')
  return text === '' ? mistake('expected the path of a PEM file, not an empty text') : text
})

export const certificates = section({
  shape: named(object({ cert: path, key: path })),
  says: 'certificates by name: `cert`, the PEM file of the chain, and `key`, that of its private key; relative to this document',
  byName: true,
  onReload: true,
  resolve: (value, open) =>
    Object.fromEntries(
      Object.entries(value).map(([name, it]) => [name, { ...it, cert: open(it.cert), key: open(it.key) }]),
    ),
})
