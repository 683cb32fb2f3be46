import { openWorkshop } from './certificates.ts'

/** A key and a certificate for one name, that trusts itself. */
export const selfSigned = (name: string): { readonly key: string; readonly cert: string } => {
  const workshop = openWorkshop()
  try {
    return workshop.make(name, { ca: true, days: 2 })
  } finally {
    workshop.close()
  }
}
