import { defineCommand } from '../command.ts';
import { completionScript, SHELLS, type Shell } from '../completion/scripts.ts';
import { VregError } from '../protocol/errors.ts';

export const completion = defineCommand({
  name: 'completion',
  summary: 'print the completion script for a shell',
  description: `Prints the completion script for a shell. To load it:
  bash   source <(vreg completion bash)        in ~/.bashrc
  zsh    vreg completion zsh > ~/.zfunc/_vreg   (a folder in fpath)
  fish   vreg completion fish > ~/.config/fish/completions/vreg.fish
The script runs vreg for each completion, so it need not be updated with vreg.`,
  arguments: [{ name: 'shell', about: 'shell', optional: true, values: SHELLS }],
  examples: [
    { about: 'load it into the current bash', command: 'source <(vreg completion bash)' },
    { about: 'install it for fish', command: 'vreg completion fish > ~/.config/fish/completions/vreg.fish' },
    { about: 'install it for zsh', command: 'vreg completion zsh > ~/.zfunc/_vreg' },
  ],
  lenient: true,
  async run(context, [shell]) {
    if (!SHELLS.includes(shell as Shell)) {
      throw new VregError('USAGE', shell === undefined ? 'no shell given' : `unsupported shell "${shell}"`, {
        field: 'shell',
        hint: `one of: ${SHELLS.join(', ')}`,
      });
    }
    context.io.out(completionScript(shell as Shell));
  },
});
