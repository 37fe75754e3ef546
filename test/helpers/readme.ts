/** Parses the READMEs: their sections, headings, code blocks, tables and links. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '../..');

/** @param name path from the root of the repository */
export function readReadme(name = 'README.md'): string {
  return readFileSync(join(ROOT, name), 'utf8');
}

/** The text under a heading, up to the next heading of its level or above. */
export function section(readme: string, heading: string): string {
  const [marks] = heading.split(' ', 1);
  const lines = readme.split('\n');
  const from = lines.indexOf(heading);
  if (from < 0) throw new Error(`there is no heading "${heading}"`);
  let fenced = false;
  const length = lines.slice(from + 1).findIndex((line) => {
    if (line.startsWith('```')) fenced = !fenced;
    return !fenced && /^#+ /.test(line) && line.indexOf(' ') <= marks!.length;
  });
  return lines.slice(from + 1, length < 0 ? undefined : from + 1 + length).join('\n');
}

/** Headings of one level, without the number signs. */
export function headings(text: string, level: number): string[] {
  const prose = text.replace(/^```.*?^```$/gms, '');
  return [...prose.matchAll(new RegExp(`^${'#'.repeat(level)} (.+)$`, 'gm'))].map(([, heading]) => heading!);
}

/** The code blocks of one language, in order. */
export function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code!);
}

/** The first table, verbatim. */
export function table(text: string): string {
  return /(?:^\|.*\n)+/m.exec(`${text}\n`)?.[0].trimEnd() ?? '';
}

export interface Step {
  command: string;
  output: string;
}

/** The commands of a `console` block, each with its output. */
export function steps(block: string): Step[] {
  return block
    .split(/^\$ /m)
    .slice(1)
    .map((text) => {
      const [, command, output] = /^((?:.*\\\n)*.*)\n([\s\S]*)$/.exec(text)!;
      return { command: command!, output: output! };
    });
}

/** The targets of all links outside code. */
export function links(text: string): string[] {
  const prose = text.replaceAll(/^```.*?^```$/gms, '').replaceAll(/`[^`\n]*`/g, '');
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
}

/** The anchors that GitHub gives to the headings of a text. */
export function anchors(text: string): string[] {
  return [1, 2, 3, 4].flatMap((level) =>
    headings(text, level).map((heading) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\w\s-]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}

/** Paths of files of the repository that a text names in code, with `{a,b}` written out. `NAME` is a placeholder. */
export function filesNamed(text: string): string[] {
  const prose = text.replaceAll(/^```.*?^```$/gms, '');
  const paths = [...prose.matchAll(/`((?:src|daemon|test|bin|completions)\/[\w./{},-]+)`/g)]
    .map(([, path]) => path!)
    .filter((path) => !path.includes('NAME'));
  return paths.flatMap((path) => {
    const [, head, names, tail] = /^(.*)\{(.*)\}(.*)$/.exec(path) ?? [];
    return names === undefined ? [path] : names.split(',').map((name) => `${head}${name}${tail}`);
  });
}

/** Each curl recipe with the `vreg` command that replaces it, in the order in which they run. */
export function recipes(): { heading: string; pair: string[] }[] {
  const parts = [
    section(readReadme(), '## The API with curl'),
    section(readReadme('daemon/http/README.md'), '## Recipes'),
  ];
  return parts.flatMap((part) =>
    headings(part, 3).map((heading) => {
      const body = section(part, `### ${heading}`);
      // The command is a block of its own, or follows "With vreg:".
      const inline = [...body.matchAll(/With vreg:\n`(.+)`$/gm)].map(([, command]) => command!);
      return { heading, pair: [...blocks(body, 'sh'), ...inline] };
    }),
  );
}

/** The shell blocks and commands that `test/external/readme.test.ts` executes. */
export function executedBlocks(): string[] {
  const sections: Record<string, string[]> = {
    'README.md': ['## Quick start', '## The operator', '## The script', '## The systemd unit'],
    'daemon/README.md': ['## systemd', '## On Vers'],
    'src/commands/README.md': ['## Scripts', '## Several registries'],
  };
  const executed = Object.entries(sections).flatMap(([name, headings]) =>
    headings.flatMap((heading) => blocks(section(readReadme(name), heading), 'sh')),
  );
  return [...executed, ...recipes().flatMap(({ pair }) => pair)];
}
