// The page of the admin server. No framework and no build step: what is served is what is written here.
const $ = (id) => document.getElementById(id)
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(key, value)
  made.append(...children)
  return made
}
const address = ({ host, port }) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`)
const bytes = (n) => (n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(1)} KiB` : n < 1073741824 ? `${(n / 1048576).toFixed(1)} MiB` : `${(n / 1073741824).toFixed(2)} GiB`)
const took = (ms) => (ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60000)} min`)

const ROWS_MAX = 500
const SECONDS_MAX = 300
const rows = new Map()
let chosen

// ---- connections ----------------------------------------------------------------------------------------------------

const REASONS = {
  policy: 'the policy says so',
  unknown: 'its first bytes are nothing Sluice knows',
  limit: 'still undecided at the byte limit',
  timeout: 'still undecided when the time was up',
  closed: 'the client closed before it was decided',
  serverFirst: 'the server spoke first',
}

const what = (it) => {
  const words = [it.protocols.join(' + ')]
  if (it.request) words.push(`${it.request.method} ${it.request.authority}${it.request.target}`)
  else if (it.http) words.push(`${it.http.method} ${it.http.target}`)
  if (it.sni) words.push(it.sni)
  if (it.reason) words.push(`(${REASONS[it.reason] ?? it.reason})`)
  return words.filter(Boolean).join(' ')
}

const became = (it) => (it.request ? String(it.request.status || 'broke off') : it.result ?? 'open')
const kind = (it) => (it.request ? (it.request.status >= 400 || it.request.status === 0 ? 'failed' : 'forwarded') : it.result ?? 'open')

const searchable = (it) =>
  [address(it.peer), address(it.destination), it.direction, what(it), became(it), it.ended, it.error?.code, ...Object.values(it.request?.rules ?? it.rules).map((rule) => rule.name)]
    .filter(Boolean)
    .join(' ')
    .toLowerCase()

const rowOf = (key, it) => {
  const open = element('button', { type: 'button' }, new Date(it.startedAt).toLocaleTimeString())
  const size = (it.request ?? it).bytes
  const row = element(
    'tr',
    { 'data-key': key },
    element('td', {}, open),
    element('td', { class: 'mono' }, address(it.peer)),
    element('td', { class: 'mono' }, address(it.destination)),
    element('td', {}, what(it)),
    element('td', { class: kind(it) }, became(it)),
    element('td', { class: 'number' }, bytes(size.sent + size.received)),
    element('td', { class: 'number' }, took((it.request ?? it).ms)),
  )
  row.addEventListener('click', () => choose(key))
  return row
}

const add = (key, it) => {
  const known = rows.get(key)
  const row = rowOf(key, it)
  rows.set(key, { it, row, text: searchable(it) })
  if (known) known.row.replaceWith(row)
  else if (!$('paused').checked) $('rows').prepend(row)
  filterRow(rows.get(key))
  if (key === chosen) {
    row.setAttribute('aria-selected', 'true')
    drawLife(it)
  }
  if (rows.size > ROWS_MAX) {
    const [oldest, { row: last }] = rows.entries().next().value
    rows.delete(oldest)
    last.remove()
  }
}

const filterRow = ({ row, text }) => {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean)
  row.hidden = !words.every((word) => text.includes(word))
}

const count = () => {
  const all = [...rows.values()]
  const shown = all.filter(({ row }) => !row.hidden && row.isConnected).length
  $('shown').textContent = `${shown} of ${all.length}`
  $('empty').hidden = all.length > 0
}

$('filter').addEventListener('input', () => {
  for (const each of rows.values()) filterRow(each)
  count()
})
$('paused').addEventListener('change', ({ target }) => {
  if (target.checked) return
  $('rows').replaceChildren(...[...rows.values()].reverse().map(({ row }) => row))
  count()
})

const choose = (key) => {
  rows.get(chosen)?.row.removeAttribute('aria-selected')
  chosen = key
  const { row, it } = rows.get(key)
  row.setAttribute('aria-selected', 'true')
  drawLife(it)
  $('life').focus({ preventScroll: true })
  $('life').scrollIntoView({ block: 'nearest' })
}

// ---- the life of a connection, as a path ----------------------------------------------------------------------------

const step = (title, detail, extra, cls) => {
  const item = element('li', { class: cls }, element('b', {}, title))
  if (detail) item.append(element('span', {}, detail))
  if (extra) item.append(...[extra].flat())
  return item
}

const ruleLink = (aspect, { name, file, line }) => {
  if (line === 0) return element('div', {}, `${aspect}: built in`)
  const link = element('a', { href: `#${file}:${line}` }, `${name} (${file}:${line})`)
  link.addEventListener('click', (event) => {
    event.preventDefault()
    showRule(file, line)
  })
  return element('div', {}, `${aspect}: `, link)
}

const printable = (head) => head.replace(/[^\x20-\x7e]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`)

const drawLife = (it) => {
  const steps = [
    step('Accepted', `${it.direction}, from ${address(it.peer)}, at ${new Date(it.startedAt).toLocaleString()}`),
    step('Original destination', address(it.destination)),
  ]
  if (it.protocols.length > 0) {
    const found = `${it.protocols.join(', then ')}${it.reason ? `: ${REASONS[it.reason] ?? it.reason}` : ''}`
    const because = it.detected?.bytes > 0 ? element('div', {}, `because of these ${it.detected.bytes} bytes, after ${took(it.detected.ms)}: `, element('code', {}, printable(it.detected.head))) : ''
    steps.push(step('Detected', found, because))
  }
  if (it.sni || it.alpn || it.identity) steps.push(step('TLS', [it.sni && `server name ${it.sni}`, it.alpn && `ALPN ${it.alpn.join(', ')}`, it.identity && `as ${it.identity}`].filter(Boolean).join(', ')))
  const rules = Object.entries({ ...it.rules, ...it.request?.rules })
  const written = rules.filter(([, rule]) => rule.line > 0)
  steps.push(step('Rules', written.length === 0 ? 'no rule says anything of it: the defaults' : '', (written.length ? written : []).map(([aspect, rule]) => ruleLink(aspect, rule))))
  for (const [title, changes] of [['Dry run', it.request?.dryRun ?? it.dryRun], ['Candidate', it.request?.candidate ?? it.candidate]])
    if (changes?.length) steps.push(step(title, 'would have decided otherwise', changes.map(({ key, was, value, rule }) => element('div', {}, `${key}: ${value}${was === undefined ? '' : ` in place of ${was}`}, by ${rule.name} (${rule.file}:${rule.line})`)), 'would'))
  const upstream = it.request?.upstream ?? it.upstream
  const channel = it.request?.channel ?? it.channel
  if (upstream) steps.push(step('Upstream', `${address(upstream)}${channel ? ` over channel ${channel}` : ''}${it.request?.attempts > 1 ? `, ${it.request.attempts} attempts` : ''}`))
  if (it.request) {
    steps.push(step(`${it.request.method} ${it.request.target}`, `answered ${became(it)} after ${took(it.request.ms)}${it.request.error ? ` (${it.request.error})` : ''}`, '', `end ${kind(it)}`))
  } else if (it.result) {
    steps.push(step(`Ended: ${it.result}, ${it.ended}`, `${bytes(it.bytes.sent)} sent, ${bytes(it.bytes.received)} received in ${took(it.ms)}${it.error ? `. ${it.error.code}: ${it.error.message}` : ''}`, '', `end ${it.result}`))
  } else steps.push(step('Open', `${bytes(it.bytes.sent)} sent, ${bytes(it.bytes.received)} received so far`))
  $('path').replaceChildren(...steps)
  $('life').hidden = false
}

// ---- numbers and charts ---------------------------------------------------------------------------------------------

const series = { at: [], connections: [], requests: [], p50: [], p99: [] }
const charts = []

const chart = (id, lines, unit) => {
  // Asked at each drawing: light may turn dark while the page is open.
  const axis = { stroke: () => getComputedStyle(document.body).color, grid: { stroke: 'rgba(128,128,128,.2)', width: 1 }, ticks: { show: false }, font: '12px system-ui' }
  const made = new uPlot(
    {
      width: $(id).clientWidth || 300,
      height: 150,
      cursor: { y: false },
      scales: { y: { range: (_, __, max) => [0, Math.max(max * 1.1, 1)] } },
      axes: [axis, { ...axis, size: 48 }],
      series: [{}, ...lines.map(([label, stroke]) => ({ label, stroke, width: 2, spanGaps: false, value: (_, v) => (v == null ? '–' : `${v.toFixed(1)}${unit}`) }))],
    },
    [[], ...lines.map(() => [])],
    $(id),
  )
  charts.push({ id, made, keys: lines.map(([, , key]) => key) })
}

const tick = (now) => {
  series.at.push(now.at / 1000)
  for (const key of ['connections', 'requests', 'p50', 'p99']) series[key].push(now[key])
  if (series.at.length > SECONDS_MAX) for (const list of Object.values(series)) list.shift()
  for (const { made, keys } of charts) made.setData([series.at, ...keys.map((key) => series[key])])
  const figures = [
    [now.open, 'connections open'],
    [now.connections.toFixed(0), 'connections a second'],
    [now.requests.toFixed(0), 'requests a second'],
    [bytes(now.bytes), 'a second'],
    [now.failed, 'failed or refused in the last minute'],
    [now.p99 == null ? '–' : took(now.p99), 'all but 1 in 100 requests'],
  ]
  $('numbers').replaceChildren(...figures.map(([value, label]) => element('div', {}, element('b', {}, String(value)), element('span', {}, label))))
  $('warnings').replaceChildren(...now.warnings.map((text) => element('li', {}, text)))
  document.title = `${now.open} open · Sluice`
  for (const each of now.live) add(`c${each.id}`, each)
  count()
}

addEventListener('resize', () => {
  for (const { id, made } of charts) made.setSize({ width: $(id).clientWidth, height: 150 })
})

// ---- names ----------------------------------------------------------------------------------------------------------

const WHY = {
  connect: 'it cannot be connected to',
  failures: 'it failed too often in a row',
  successRate: 'too few of its answers were good',
  healthCheck: 'its health check fails',
}

const stateOf = (it) => {
  if (it.state === 'ready') return 'ready'
  const left = it.leftMs === undefined ? '' : ` for ${took(it.leftMs)}`
  return `${it.state === 'probing' ? 'being tried again' : `left alone${left}`}: ${WHY[it.because] ?? it.because}`
}

const nameLine = (it) => [
  `${it.asked}${it.name ? ` is ${it.name}` : ''}, from ${it.source}`,
  it.isStale && 'which cannot be reached: this is the last it said',
  it.note,
  `balanced by ${it.algorithm}`,
  it.waiting > 0 && `${it.waiting} wait`,
  it.isFailfast && 'failing fast',
].filter(Boolean).join('; ')

const drawNames = async () => {
  const answer = await fetch('/endpoints')
  if (!answer.ok) return
  const names = await answer.json()
  $('names').hidden = names.length === 0
  $('endpoints').replaceChildren(...names.slice(0, 100).flatMap((name) => [
    element('tr', { class: 'name' }, element('th', { scope: 'rowgroup', colspan: '7' }, nameLine(name))),
    ...name.endpoints.slice(0, 200).map((it) => element('tr', {},
      element('td', { title: Object.entries(it.labels).map(([key, value]) => `${key}=${value}`).join(' ') || undefined }, `${it.address}${it.zone ? ` in ${it.zone}` : ''}`),
      ...[it.weight, took(it.latencyMs), it.inFlight, it.chosen, it.failed].map((value) => element('td', { class: 'number' }, String(value))),
      element('td', { class: it.state === 'ready' ? 'open' : 'failed' }, stateOf(it)))),
  ]))
}

// ---- policy ---------------------------------------------------------------------------------------------------------

const drawPolicy = async () => {
  const documents = await (await fetch('/page/policy.json')).json()
  $('documents').replaceChildren(
    ...documents.map(({ file, text, hits }) => {
      const lines = text.replace(/\n$/, '').split('\n').map((line, index) => {
        const hit = hits[index + 1]
        const cls = hit === undefined ? undefined : hit === 0 ? 'never' : 'hit'
        return element('li', { id: `${file}:${index + 1}`, class: cls }, element('span', { title: hit === undefined ? undefined : `decided ${hit} times` }, hit === undefined ? '' : hit === 0 ? 'never' : String(hit)), element('span', {}, String(index + 1)), element('code', {}, line))
      })
      return element('div', { class: 'document', tabindex: '0', 'aria-label': file }, element('h3', {}, file), element('ol', {}, ...lines))
    }),
  )
}

const showRule = async (file, line) => {
  await drawPolicy()
  for (const each of document.querySelectorAll('.document li.shown')) each.classList.remove('shown')
  const found = document.getElementById(`${file}:${line}`)
  found?.classList.add('shown')
  found?.scrollIntoView({ block: 'center' })
}

// ---- explain --------------------------------------------------------------------------------------------------------

$('facts').addEventListener('submit', async (event) => {
  event.preventDefault()
  const asked = new URLSearchParams([...new FormData(event.target)].filter(([, value]) => value !== ''))
  const answer = await fetch(`/page/explain?${asked}`)
  $('explanation').textContent = await answer.text()
})

// ---- live -----------------------------------------------------------------------------------------------------------

chart('rates', [['connections', '#3b82c4', 'connections'], ['requests', '#d08a2e', 'requests']], '')
chart('latency', [['half', '#3b9c64', 'p50'], ['99 of 100', '#c0523f', 'p99']], ' ms')
drawPolicy()
setInterval(drawPolicy, 5000)
drawNames()
setInterval(drawNames, 2000)

const events = new EventSource('/page/events')
const on = (name, handle) => events.addEventListener(name, ({ data }) => handle(JSON.parse(data)))
on('hello', ({ version, since }) => {
  $('state').textContent = `version ${version}, up since ${new Date(since).toLocaleString()}`
})
on('connection', (it) => add(`c${it.id}`, it))
on('request', (it) => add(`r${it.id}.${it.number}`, it))
on('tick', tick)
events.addEventListener('error', () => {
  $('state').textContent = 'not connected; trying again'
})
count()
