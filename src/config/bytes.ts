/** Amounts of bytes as people write them: `1048576`, `512KiB`, `1MiB`. */

import { VregError } from '../protocol/errors.ts';
import { maskValue } from '../protocol/redact.ts';

const UNITS: Readonly<Record<string, number>> = { '': 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** @returns bytes, more than 0. @throws VregError USAGE naming `name` */
export function parseBytes(text: string, name: string): number {
  const [, amount, unit] = /^(\d{1,10})(|KiB|MiB|GiB)$/.exec(text.trim()) ?? [];
  const bytes = amount === undefined ? 0 : Number(amount) * UNITS[unit!]!;
  if (bytes > 0 && bytes <= 1024 ** 3) return bytes;
  throw new VregError('USAGE', `${name}: "${maskValue(text)}" is not an amount of bytes`, {
    field: name,
    hint: 'write it as 65536, 512KiB or 1MiB (more than 0, at most 1GiB)',
  });
}
