/** The fleet page: bundles `src/page/` and compresses its files into `dist/page.json`, from which the daemon serves them. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { ROOT } from './bundles.mjs';

const TYPES = {
  js: 'text/javascript; charset=utf-8',
  css: 'text/css; charset=utf-8',
  html: 'text/html; charset=utf-8',
  svg: 'image/svg+xml',
};

/**
 * The page uses some constants and pure functions of the protocol, whose other functions need modules of Node. esbuild removes
 * what is not used, if it may omit whole modules.
 */
const PROTOCOL_WITHOUT_NODE = {
  name: 'protocol-without-node',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: 'none', sideEffects: false }));
    esbuild.onLoad({ filter: /.*/, namespace: 'none' }, () => ({ contents: 'module.exports = {}' }));
  },
};

/** @type {import('esbuild').BuildOptions} */
const OPTIONS = {
  absWorkingDir: ROOT,
  bundle: true,
  minify: true,
  write: false,
  outdir: 'dist/page',
  format: 'esm',
  target: ['es2022'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  plugins: [PROTOCOL_WITHOUT_NODE],
  logLevel: 'warning',
};

/** Writes `dist/page.json`. @param dist folder of the bundles @returns paths of the sources, relative to the root */
export async function buildPage(dist) {
  const files = {};
  const sources = [];
  /** Adds a file under a name with the hash of its content. @returns that name */
  const add = (path, content) => {
    const [, name, extension] = /^(.+)\.(\w+)$/.exec(basename(path));
    const hashed = `${name}-${createHash('sha256').update(content).digest('base64url').slice(0, 10)}.${extension}`;
    files[hashed] = compressed(extension, content);
    return hashed;
  };
  const bundle = async (entry, define = {}) => {
    const { outputFiles, metafile } = await build({ ...OPTIONS, entryPoints: [entry], define, metafile: true });
    sources.push(...Object.keys(metafile.inputs));
    return add(outputFiles[0].path, outputFiles[0].contents);
  };
  const worker = await bundle('src/page/shared-worker.ts');
  const names = {
    SCRIPT: await bundle('src/page/app.tsx', { __WORKER__: JSON.stringify(worker) }),
    STYLE: await bundle('src/page/style.css'),
    ICON: add('icon.svg', readFileSync(`${ROOT}src/page/icon.svg`)),
  };
  const index = readFileSync(`${ROOT}src/page/index.html`, 'utf8');
  const indexIn = (folder) => index.replace(/\b(SCRIPT|STYLE|ICON)\b/g, (name) => folder + names[name]);
  files['index.html'] = compressed('html', indexIn('./'));
  // For `GET /`: the same page, one folder higher.
  files['root.html'] = compressed('html', indexIn('./ui/'));
  mkdirSync(dist, { recursive: true });
  writeFileSync(`${dist}/page.json`, JSON.stringify(files));
  return sources;
}

function compressed(extension, content) {
  const bytes = Buffer.from(content);
  const br = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  return { type: TYPES[extension], br: br.toString('base64'), gzip: gzipSync(bytes, { level: 9 }).toString('base64') };
}
