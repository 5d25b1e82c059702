// Renders pages for as long as it is asked to: one JSON object a line in, one a line out.
//
//   {"id": 1, "page": "home", "props": {...}}  ->  {"id": 1, "html": "..."}  or  {"id": 1, "error": "..."}
//
// What a page logs is passed on as it is. The first line says that it is ready. After SIGTERM it finishes what it
// is doing, and ends.
import { createInterface } from 'node:readline'
import { pages } from './pages.mjs'

// Standard output is a terminal's text to the one that reads it: everything that is not ASCII is escaped.
const ascii = (text) => text.replace(/[\u007f-\uffff]/g, (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'))
const write = (message) => process.stdout.write(ascii(JSON.stringify(message)) + '\n')
let working = 0
let ending = false

async function render({ id, page, props }) {
  working += 1
  try {
    write({ id, html: await pages[page](props) })
  } catch (error) {
    write({ id, error: String(error?.stack ?? error) })
  }
  working -= 1
  if (ending && working === 0) process.exit(0)
}

process.on('SIGTERM', () => {
  ending = true
  if (working === 0) process.exit(0)
})
createInterface({ input: process.stdin }).on('line', (line) => render(JSON.parse(line)))
console.log('ready to render')
