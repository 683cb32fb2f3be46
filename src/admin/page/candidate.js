// The part of the page about a candidate policy: shown while one is watched.
const $ = (id) => document.getElementById(id)
const cell = (text, cls) => {
  const made = document.createElement('td')
  if (cls) made.className = cls
  made.textContent = text
  return made
}

const draw = ({ candidate, connections, requests, changes, more }) => {
  $('candidate').hidden = candidate === null
  if (candidate === null) return
  const of = ({ changed, asked }, what) => `${changed} of ${asked} ${what}`
  $('candidate-about').textContent = `${candidate.from}, since ${new Date(candidate.since).toLocaleString()}. It decides nothing. It would treat ${of(connections, 'connections')} and ${of(requests, 'requests')} otherwise${more > 0 ? `; ${more} changes of other kinds are not listed` : ''}.`
  $('candidate-rows').replaceChildren(
    ...changes.map(({ key, was, value, rule, connections, requests, example }) => {
      const row = document.createElement('tr')
      row.append(
        cell(key),
        cell(was ?? 'not decided yet'),
        cell(value),
        cell(rule.line > 0 ? `${rule.name} (${rule.file}:${rule.line})` : rule.name),
        cell(String(connections), 'number'),
        cell(String(requests), 'number'),
        cell(example, 'mono'),
      )
      return row
    }),
  )
}

const PERIOD_MS = 3000
const look = async () => draw(await (await fetch('/candidate')).json())
const again = () => look().catch(() => {}).then(() => setTimeout(again, PERIOD_MS))

again()
