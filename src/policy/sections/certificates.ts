import { named, object } from '../shape.ts'
import { pemPath } from './pemPath.ts'
import { section } from './section.ts'

export const certificates = section({
  shape: named(object({ cert: pemPath, key: pemPath })),
  says: 'certificates by name: `cert`, the PEM file of the chain, and `key`, that of its private key; relative to this document',
  byName: true,
  onReload: true,
  resolve: (value, open) =>
    Object.fromEntries(
      Object.entries(value).map(([name, it]) => [name, { ...it, cert: open(it.cert), key: open(it.key) }]),
    ),
})
