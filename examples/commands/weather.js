// A connector of your own: put this file into the folder `commands` beside your policy.
// docs/write-a-connector.md explains each part.
export const commands = [
  {
    id: 'weather/Today',
    summary: 'The weather of a city today',
    reads: true,
    parameters: [
      { id: 'city', type: 'str', required: true, summary: 'Name of the city' },
      { id: 'units', type: 'str', required: false, summary: 'metric (the default) or imperial' },
    ],
    secrets: ['WEATHER_TOKEN', 'WEATHER_URL'],
    async run({ city, units = 'metric' }, { fetch, secret, fail }) {
      const url = new URL(secret('WEATHER_URL'))
      url.searchParams.set('city', city)
      url.searchParams.set('units', units)
      const response = await fetch(url, { headers: { authorization: `Bearer ${secret('WEATHER_TOKEN')}` } })
      if (response.status === 404) fail('CityNotFound', `no weather for ${city}`, 404)
      if (!response.ok) fail('WeatherUnavailable', `the weather service answered ${response.status}`, 502)
      return { body: await response.json() }
    },
  },
]
