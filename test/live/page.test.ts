/// <reference lib="dom" />
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request } from 'node:http'
import { connect } from 'node:net'
import { relative } from 'node:path'
import { chromium, type Page } from 'playwright-core'
import { type Test, test } from 'tap'
import { listen } from '../../src/accept/listen.ts'
import { candidateRoutes, keepCandidate } from '../../src/admin/candidate.ts'
import { balanceRoutes } from '../../src/admin/liveBalance.ts'
import { pageRoutes } from '../../src/admin/page.ts'
import { startAdmin } from '../../src/admin/server.ts'
import type { Use } from '../../src/balance/use.ts'
import { balancingOf } from '../../src/forward/balancing.ts'
import { formatAddress } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'
import { createPulse } from '../../src/telemetry/pulse.ts'
import { countTrials } from '../../src/telemetry/trialCounts.ts'
import { worldOf } from '../support/world.ts'

const NOWHERE = { host: '127.0.0.1', port: 9 }

const POLICY = `apiVersion: sluice/v1
rules:
  - name: no admin pages
    when: { path: /admin/** }
    then: { deny: true }
  - name: nobody comes here
    when: { port: 9999 }
    then: { deny: true }
`

const CANDIDATE = `apiVersion: sluice/v1
rules: [{ name: no shop, when: { path: /shop/** }, then: { deny: true } }]
`

/** A proxy in front of a real web server, its admin page, and a browser that looks at it. */
const scene = async (t: Test) => {
  const directory = t.testdir({ 'policy.yaml': POLICY })
  const file = relative(process.cwd(), `${directory}/policy.yaml`)
  const parsed = parsePolicy([{ path: file, text: POLICY }])
  assert.ok(parsed.is === 'policy')
  const web = createServer((asked, answer) => answer.end(`you asked for ${asked.url}`)).listen(0, '127.0.0.1')
  await once(web, 'listening')
  const destination = { host: '127.0.0.1', port: (web.address() as { port: number }).port }
  const candidate = keepCandidate(undefined, { clock: systemClock, changed: () => {}, warn: assert.fail })
  const world = { ...worldOf(''), policy: () => parsed.policy, candidate: candidate.policy }
  const counts = countTrials(world.ledger)
  const pulse = createPulse(world.ledger, world.clock)
  const options = { name: 'outbound', direction: 'outbound', maxConnections: 100, destination } as const
  const front = await listen({ ...options, address: { host: '127.0.0.1', port: 0 } }, world, undefined)
  const routes = pageRoutes({
    ledger: world.ledger,
    policy: world.policy,
    pulse,
    time: world.clock.time,
    version: 'test',
  })
  const balance = balanceRoutes(world.http.balancers, world.clock)
  const trials = candidateRoutes(candidate, counts)
  const admin = await startAdmin({
    address: { host: '127.0.0.1', port: 0 },
    routes: { ...routes, ...balance, ...trials },
  })
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
  t.teardown(async () => {
    await browser.close()
    admin.close()
    front.close()
    web.close()
    web.closeAllConnections()
  })
  const get = async (path: string) => {
    const asked = request({ ...front.address, path, agent: false, headers: { 'user-agent': 'test' } }).end()
    const [answer] = await once(asked, 'response')
    await once(answer.resume(), 'end')
    return answer.statusCode as number
  }
  return { browser, get, front, world, destination, candidate, url: `http://127.0.0.1:${admin.address.port}/` }
}

/** What the page says of itself when something in it fails. */
const open = async (page: Page, url: string): Promise<string[]> => {
  const troubles: string[] = []
  page.on('pageerror', (error) => troubles.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error') troubles.push(message.text())
  })
  await page.goto(url)
  await page.getByText('version test').waitFor()
  return troubles
}

test('the page shows traffic as it happens, the life of a connection, rules with hits, and explains', async (t) => {
  const { browser, get, front, url, world, destination, candidate } = await scene(t)
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme: 'light' })
  const troubles = await open(page, url)
  assert.equal(await get('/shop?token=CANARY'), 200)
  assert.equal(await get('/admin/users'), 403)
  const raw = connect({ ...front.address })
  raw.on('error', () => {})
  raw.write('\x01\x02\x03')

  // By the cell: a port may well have these digits too.
  const answered = page.getByRole('cell', { name: '403', exact: true })
  const denied = page.getByRole('row', { name: /GET .*\/admin\/users/ }).filter({ has: answered })
  await denied.first().waitFor()
  await page
    .getByRole('row', { name: /nothing Sluice knows/ })
    .first()
    .waitFor()
  assert.ok(!(await page.content()).includes('CANARY'), 'a secret is shown')

  await page.getByRole('searchbox').fill('admin 403')
  await denied.first().getByRole('button').press('Enter')
  const path = page.locator('#path')
  await path.getByText('Accepted').waitFor()
  assert.match(
    (await path.textContent()) ?? '',
    /Detected.*http1.*because of these.*GET \/admin.*Rules.*deny: no admin pages/s,
  )
  await path.getByRole('link', { name: /no admin pages/ }).click()
  await page.locator('li.shown', { hasText: 'no admin pages' }).waitFor()
  const hits = await page
    .locator('.document li', { hasText: 'name: no admin pages' })
    .locator('span')
    .first()
    .textContent()
  assert.ok(Number(hits) >= 1, `hits: ${hits}`)
  assert.equal(
    await page.locator('.document li', { hasText: 'nobody comes here' }).locator('span').first().textContent(),
    'never',
  )

  const list = { hash: undefined, tried: [] }
  const service = world.http.balancers.ofAddresses([NOWHERE, destination], balancingOf(world.policy().base))!
  const taken = (use: Use) => (use.member.endpoint.address === NOWHERE ? use.unreachable() : use.released())
  for (let i = 0; i < 50; i++) service.take(list, { taken, refused: () => assert.fail('refused') })
  await page.getByRole('cell', { name: /left alone.*it cannot be connected to/ }).waitFor()
  await page.locator('#endpoints').getByText(formatAddress(destination), { exact: true }).waitFor()

  assert.equal(await page.locator('#candidate').isVisible(), false)
  assert.deepEqual(candidate.put(CANDIDATE), [])
  assert.equal(await get('/shop/2'), 200)
  await page.locator('#candidate-rows', { hasText: 'no shop' }).waitFor()
  assert.match((await page.locator('#candidate-about').textContent()) ?? '', /It decides nothing\..* 1 of 1 requests/s)

  await page.getByLabel('Destination').fill('10.0.0.5:9999')
  await page.getByRole('button', { name: 'Explain' }).click()
  await page.locator('#explanation', { hasText: 'nobody comes here' }).waitFor()
  assert.deepEqual(troubles, [])
  raw.destroy()
  if (process.env.SLUICE_PICTURES) {
    await page.getByRole('searchbox').fill('')
    for (let i = 0; i < 12; i++) await get(`/page/${i}`)
    await page.waitForFunction(() => document.querySelectorAll('#rows tr').length > 20)
    for (const [name, options] of [
      ['light', { colorScheme: 'light' }],
      ['dark', { colorScheme: 'dark' }],
    ] as const) {
      await page.emulateMedia(options)
      await page.screenshot({ path: `docs/pictures/page-${name}.png`, fullPage: true })
    }
    await page.setViewportSize({ width: 390, height: 844 })
    await page.screenshot({ path: 'docs/pictures/page-phone.png', fullPage: true })
  }
})

test('the page fits a phone, and everything on it can be reached by keyboard and by name', async (t) => {
  const { browser, get, url } = await scene(t)
  const page = await browser.newPage({ viewport: { width: 390, height: 844 }, colorScheme: 'dark' })
  const troubles = await open(page, url)
  assert.equal(await get('/'), 200)
  await page.getByRole('row').nth(1).waitFor()
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
  assert.equal(wide, 0, 'the page is wider than the phone')
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the connections')
  for (const name of ['Now', 'Connections', 'Policy', 'Explain'])
    await page.getByRole('heading', { name, exact: true }).waitFor()
  assert.deepEqual(troubles, [])
})
