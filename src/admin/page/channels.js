// The table of callback channels. A page of a proxy without them asks once and never again.
const PERIOD_MS = 2000

const cell = (text, className) => {
  const made = document.createElement('td')
  made.textContent = text
  if (className) made.className = className
  return made
}

const rowOf = ({ name, peer, state, isNext, isOurs, identity, inFlight, calls, pingsMissed, openedAt }) => {
  const row = document.createElement('tr')
  const who = `${peer}${identity === null ? '' : ` as ${identity}`}${isOurs ? '' : ' (by address only)'}`
  row.append(
    cell(name),
    cell(who, 'mono'),
    cell(state, state === 'up' ? 'forwarded' : 'open'),
    cell(isNext ? 'next' : ''),
    ...[inFlight, calls, pingsMissed].map((number) => cell(String(number), 'number')),
    cell(new Date(openedAt).toLocaleTimeString()),
  )
  return row
}

const draw = async () => {
  const { enabled, channels } = await (await fetch('/channels')).json()
  if (!enabled) return
  document.getElementById('channels').hidden = false
  document.getElementById('channel-rows').replaceChildren(...channels.map(rowOf))
  document.getElementById('no-channels').hidden = channels.length > 0
  setTimeout(again, PERIOD_MS)
}

const again = () => draw().catch(() => setTimeout(again, PERIOD_MS))

again()
