// What a framework would compile: functions that make a page of what they are given.
import { setTimeout } from 'node:timers/promises'

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`)
const layout = (title, body) => `<!doctype html>
<html><head><meta charset="utf-8"><title>${escape(title)}</title></head><body>${body}</body></html>
`

export const pages = {
  home: ({ books }) =>
    layout('Books', `<h1>Books</h1><ul>${books.map((b) => `<li><a href="/books/${b.id}">${escape(b.title)}</a>`).join('')}</ul>`),
  book: ({ title, year }) => layout(title, `<h1>${escape(title)}</h1><p>First printed in ${year}.</p>`),
  // Pages that go wrong, each in its own way.
  broken: () => {
    throw new Error('this page cannot be rendered')
  },
  slow: async ({ seconds }) => {
    await setTimeout(seconds * 1000)
    return layout('Slow', 'done')
  },
  stuck: () => {
    for (;;);
  },
  ping: () => 'pong',
}
