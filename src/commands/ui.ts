import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Context, defineCommand } from '../command.ts';
import { createFolder, writeAtomically } from '../files.ts';
import { exclusiveFlags } from '../protocol/errors.ts';

interface Flags {
  open?: boolean;
  print?: boolean;
}

export const ui = defineCommand<Flags>({
  name: 'ui',
  summary: 'open the fleet page in a browser',
  description:
    'Makes a link that logs a browser in to the fleet page of the registry with the rights of the current token, and opens it. The link works once within 5 minutes; the session lasts 24 hours, or until the token is revoked. A registry without tokens needs no log-in. Without a desktop, and in a pipe, the link is printed.',
  flags: [
    { flags: '--open', about: 'open the link in a browser (the default on a desktop)' },
    { flags: '--print', about: 'print the link (the default elsewhere)' },
  ],
  examples: [
    { about: 'open the page', command: 'vreg ui' },
    { about: 'a link to send to somebody', command: 'vreg ui --print' },
    { about: 'when the link expires', command: 'vreg ui -o json | jq -r .expiresAt' },
  ],
  exits: [2, 8],
  async run(context, _args, { open, print }) {
    if (open && print) throw exclusiveFlags('--open', '--print', 'omit one of them');
    const link = await context.client().magicLink();
    if (link.warning !== undefined) context.note(link.warning);
    const { DISPLAY, WAYLAND_DISPLAY } = context.env;
    const hasDesktop = process.platform === 'darwin' || DISPLAY !== undefined || WAYLAND_DISPLAY !== undefined;
    const isOpened =
      (open || (!print && context.io.tty && hasDesktop)) &&
      (await openBrowser(redirectFile(context, link.url), context.env));
    if (isOpened) return context.note('opened the fleet page in the browser');
    if (open) context.note('cannot start a browser; open the link yourself');
    await context.print({ kind: 'value', text: link.url, data: link });
  },
});

/**
 * Writes a file that leads to a link, because every user of the machine can read the arguments of a program. Jupyter does the
 * same. The link in an old file is used up or has expired.
 */
function redirectFile(context: Context, url: string): string {
  const folder = context.config.stateDir;
  createFolder(folder, 0o700);
  const path = join(folder, 'open-page.html');
  const href = url.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll('<', '&lt;');
  writeAtomically(path, `<!doctype html><meta http-equiv="refresh" content="0;url=${href}">\n`, { mode: 0o600 });
  return pathToFileURL(path).href;
}

/** @returns false if there is no program that opens URLs, or if it fails */
function openBrowser(url: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  const program = process.platform === 'darwin' ? 'open' : 'xdg-open';
  return new Promise((resolve) => {
    const child = spawn(program, [url], { stdio: 'ignore', env });
    child.once('error', () => resolve(false)).once('exit', (code) => resolve(code === 0));
  });
}
