import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Context, defineCommand, type LiveValues } from '../command.ts';
import { completionScript, SHELL_FILES, SHELLS, type Shell } from '../completion.ts';
import { VregError } from '../protocol/errors.ts';
import { printable } from '../protocol/redact.ts';
import { looksLikeFlag } from '../protocol/vm.ts';

/** Maximum time in milliseconds that a Tab waits for the registry; a longer wait would look like a hang. */
const LIVE_VALUES_TIMEOUT = 300;

interface Flags {
  write?: string;
  values?: LiveValues;
}

export const completion = defineCommand<Flags>({
  name: 'completion',
  summary: 'print the completion script for a shell',
  description: `Prints the completion script for a shell. To load it:
  bash   source <(vreg completion bash)        in ~/.bashrc
  zsh    vreg completion zsh > ~/.zfunc/_vreg   (a folder in fpath)
  fish   vreg completion fish > ~/.config/fish/completions/vreg.fish`,
  arguments: [{ name: 'shell', about: 'shell', optional: true, values: SHELLS }],
  flags: [
    {
      flags: '--values <what>',
      about: 'print the ids or names of all VMs, for the completion scripts',
      values: ['ids', 'names'],
    },
    { flags: '--write <dir>', about: 'write the scripts for all shells to a folder', file: true },
  ],
  examples: [
    { about: 'load it into the current bash', command: 'source <(vreg completion bash)' },
    { about: 'install it for fish', command: 'vreg completion fish > ~/.config/fish/completions/vreg.fish' },
    { about: 'install it for zsh', command: 'vreg completion zsh > ~/.zfunc/_vreg' },
  ],
  lenient: true,
  async run(context, [shell], { write, values }) {
    if (values !== undefined) return printLive(context, values);
    const commands = await context.commands();
    if (write !== undefined) {
      for (const each of SHELLS) writeFileSync(join(write, SHELL_FILES[each]), completionScript(each, commands));
      return;
    }
    if (!SHELLS.includes(shell as Shell)) {
      throw new VregError('USAGE', shell === undefined ? 'no shell given' : `unsupported shell "${shell}"`, {
        field: 'shell',
        hint: `one of: ${SHELLS.join(', ')}`,
      });
    }
    context.io.out(completionScript(shell as Shell, commands));
  },
});

/** Prints nothing on failure: an error would appear in the line that the user is typing. */
async function printLive(context: Context, values: LiveValues): Promise<void> {
  context.config.limitTimeout(LIVE_VALUES_TIMEOUT);
  try {
    const vms = await context.client().list();
    const words = new Set(vms.map((vm) => String(values === 'ids' ? vm.id : vm.name)));
    // The shell would complete a flag that the user did not type, or break at a control character.
    const safe = [...words].filter((word) => !looksLikeFlag(word) && printable(word) === word);
    context.io.out(safe.map((word) => `${word}\n`).join(''));
  } catch {
    // Without the registry there are no values to complete.
  }
}
