import { type Mistake, mistake, readText } from '../shape.ts'

/** What an app calls itself. No colon and no slash: it stands before both in names that we make of it. */
export const appId = readText('the id of an app', (text): string | Mistake =>
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(text)
    ? text
    : mistake(`"${text}" is not an app id: letters, digits, dots, hyphens and underscores, at most 128`),
)
