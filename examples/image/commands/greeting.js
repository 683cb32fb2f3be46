export const commands = [
  {
    id: 'greeting/Hello',
    summary: 'Says hello',
    reads: true,
    parameters: [{ id: 'name', type: 'str', required: true }],
    run: async ({ name }) => ({ body: { greeting: `Hello, ${name}` } }),
  },
]
