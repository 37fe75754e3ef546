import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Context, defineCommand, type LiveValues } from '../command.ts';
import { completionScript, SHELL_FILES, SHELLS, type Shell } from '../completion.ts';
import { VregError } from '../protocol/errors.ts';

/** Milliseconds that a Tab may wait for the registry: longer feels stuck. */
const PATIENCE = 300;

interface Flags {
  write?: string;
  values?: LiveValues;
}

export const completion = defineCommand<Flags>({
  name: 'completion',
  summary: 'print the completion script of a shell',
  description: `Prints the completion script of a shell, to be loaded by it:
  bash   source <(vreg completion bash)        in ~/.bashrc
  zsh    vreg completion zsh > ~/.zfunc/_vreg   (a folder of fpath)
  fish   vreg completion fish > ~/.config/fish/completions/vreg.fish`,
  arguments: [{ name: 'shell', about: 'shell', optional: true, values: SHELLS }],
  flags: [
    { flags: '--values <what>', about: 'print live values, as the scripts ask for them', values: ['ids', 'names'] },
    { flags: '--write <dir>', about: 'write the scripts of all shells into a folder', file: true },
  ],
  examples: [
    { about: 'for this bash', command: 'source <(vreg completion bash)' },
    { about: 'for fish, for good', command: 'vreg completion fish > ~/.config/fish/completions/vreg.fish' },
    { about: 'for zsh, for good', command: 'vreg completion zsh > ~/.zfunc/_vreg' },
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
      throw new VregError('USAGE', shell === undefined ? 'which shell?' : `no completion for "${shell}"`, {
        field: 'shell',
        hint: `one of: ${SHELLS.join(', ')}`,
      });
    }
    context.io.out(completionScript(shell as Shell, commands));
  },
});

/** Silent whatever happens: an error would land in the line that somebody is typing. */
async function printLive(context: Context, values: LiveValues): Promise<void> {
  context.config.limitTimeout(PATIENCE);
  try {
    const vms = await context.client().list();
    const words = new Set(vms.map((vm) => (values === 'ids' ? vm.id : vm.name)));
    context.io.out([...words].map((word) => `${word}\n`).join(''));
  } catch {
    // Nothing to offer.
  }
}
