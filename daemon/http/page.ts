/** The files of the fleet page. The build compresses them; the daemon reads them once and serves them from memory. */
import { gunzipSync } from 'node:zlib';
import { readProgramFile } from '../../src/program.ts';
import { VregError } from '../../src/protocol/errors.ts';

/** A file of the page, in the encodings in which it is sent. */
export interface PageFile {
  type: string;
  br: Buffer;
  gzip: Buffer;
  /** Uncompressed, for clients that accept no encoding. */
  identity: Buffer;
}

/** The file that the build writes: base64 by encoding, by the name of each file. */
type Built = Record<string, { type: string; br: string; gzip: string }>;

const BUILT = 'dist/page.json';

let files: ReadonlyMap<string, PageFile> | undefined;

/** Reads the files. Called at start, so that no request waits for the disk. */
export function loadPage(): ReadonlyMap<string, PageFile> {
  files ??= new Map(
    Object.entries(JSON.parse(readProgramFile(BUILT)) as Built).map(([name, { type, br, gzip }]) => {
      const compressed = Buffer.from(gzip, 'base64');
      return [name, { type, br: Buffer.from(br, 'base64'), gzip: compressed, identity: gunzipSync(compressed) }];
    }),
  );
  return files;
}

/** @throws VregError NOT_FOUND */
export function pageFile(name: string): PageFile {
  const file = loadPage().get(name);
  if (file) return file;
  throw new VregError('NOT_FOUND', 'the fleet page has no such file', { hint: 'open /ui/ again: it was updated' });
}

/** The encoding of a file to send, by the client's Accept-Encoding. */
export function chooseEncoding(accepted: string | undefined): 'br' | 'gzip' | 'identity' {
  // Browsers list what they accept, and `q=0` for what they do not.
  const names = (accepted ?? '')
    .split(',')
    .map((each) => each.trim().split(/\s*;\s*/))
    .filter(([, quality]) => !/^q=0(\.0*)?$/.test(quality ?? ''))
    .map(([name]) => name!.toLowerCase());
  return names.includes('br') ? 'br' : names.includes('gzip') ? 'gzip' : 'identity';
}

/** True if a client prefers HTML to JSON, as browsers do when a user opens a URL. */
export function prefersHtml(accept: string | undefined): boolean {
  const qualityOf = (type: string) => {
    const found = (accept ?? '').split(',').find((each) => each.trim().toLowerCase().split(/\s*;/)[0] === type);
    return found === undefined ? 0 : Number(/;\s*q=([\d.]+)/.exec(found)?.[1] ?? 1);
  };
  return qualityOf('text/html') > qualityOf('application/json');
}
