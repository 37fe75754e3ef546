/**
 * Extension for pi: keeps the VM on which pi runs registered and alive, registers and removes the VMs that other extensions create and
 * destroy, and adds the registry tools. In contrast to the extension of the original registry it never sets the status `stopped`,
 * because an idle VM must stay discoverable. The settings are those of vreg. The build makes one file of it, `dist/pi/registry.js`.
 */
import { maskTokens, printable } from '../../protocol/redact.ts';
import { announce, sendHeartbeat } from './own-vm.ts';
import type { PiApi, PiContext } from './pi-api.ts';
import { PiSession } from './pi-session.ts';
import { registerTools } from './pi-tools.ts';
import { applyEvent, CHANNELS } from './spawned-vms.ts';

/** Key of the line in the footer of pi. */
const STATUS_KEY = 'registry';
/** Milliseconds between heartbeats if the setting is invalid. */
const FALLBACK_INTERVAL = 60_000;

/** pi calls this function when it loads the extension. Failures appear in the footer of pi and never end a session. */
export default function registry(pi: PiApi): void {
  let session = new PiSession(process.env);
  let context: PiContext | undefined;
  let timer: NodeJS.Timeout | undefined;
  let pending = 0;
  /** Why the interval in the settings is not used. */
  let warning: string | undefined;

  /** @param what precedes the message of a failure that is not about this VM */
  const attempt = async (work: (current: PiSession) => Promise<string | undefined>, what = ''): Promise<void> => {
    const current = session;
    pending++;
    try {
      const line = await current.inOrder(() => work(current));
      if (line !== undefined) show(line);
    } catch (error) {
      if (!current.context.signal.aborted) show(what + (error as Error).message);
    } finally {
      pending--;
    }
  };
  const show = (line: string | undefined): void => {
    try {
      const parts = warning === undefined ? [line] : [line, warning];
      // An error may quote text from a VM or a proxy, and the footer is part of a terminal.
      const text = printable(maskTokens(`registry: ${parts.join('; ')}`));
      context?.ui?.setStatus?.(STATUS_KEY, line === undefined ? undefined : text);
    } catch {
      // The session of this context has ended.
    }
  };
  const register = () => attempt((current) => current.withClient(undefined, ({ client }) => announce(current, client)));
  const beat = () =>
    attempt((current) => current.withClient(undefined, ({ client }) => sendHeartbeat(current, client)));
  const startHeartbeats = () => {
    let interval = FALLBACK_INTERVAL;
    warning = undefined;
    try {
      interval = session.context.config.duration('interval');
    } catch (error) {
      warning = `${(error as Error).message}, so the interval is 60 s`;
    }
    timer = setInterval(() => {
      if (pending === 0) void beat();
    }, interval);
    timer.unref();
  };

  registerTools(pi, () => session);
  pi.on('session_start', (_event, given) => {
    context = given;
    if (session.context.signal.aborted) session = new PiSession(process.env);
    clearInterval(timer);
    // pi waits for its handlers, and a registry that is away must not delay it.
    void register();
    startHeartbeats();
  });
  pi.on('agent_start', (_event, given) => {
    context = given;
    void register();
  });
  pi.on('session_shutdown', () => {
    clearInterval(timer);
    show(undefined);
    session.end();
  });
  for (const channel of CHANNELS)
    pi.events.on(channel, (data) =>
      attempt(
        (current) =>
          current.withClient(undefined, async ({ client }) => {
            await applyEvent(current, client, channel, data);
            return undefined;
          }),
        `${channel}: `,
      ),
    );
}
