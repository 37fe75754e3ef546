/** The worker that all tabs of a browser share, so that they use one connection: a browser opens six to a host at most. */

import type { TabMessage } from './fleet-message.ts';
import { FleetStream } from './fleet-stream.ts';

const ports = new Set<MessagePort>();
const stream = new FleetStream(new URL('..', self.location.href), (message) => {
  for (const port of ports) port.postMessage(message);
});

function join(port: MessagePort): void {
  ports.add(port);
  for (const message of stream.snapshot()) port.postMessage(message);
}

addEventListener('connect', (event) => {
  const [port] = (event as MessageEvent).ports;
  if (!port) return;
  port.onmessage = ({ data }: MessageEvent<TabMessage>) => {
    if (data === 'hello') join(port);
    else if (data === 'goodbye') ports.delete(port);
    else if (data === 'ping') port.postMessage(stream.linkMessage());
    else if (data === 'renew') stream.renew();
    else stream.wake();
  };
  join(port);
});
void stream.run();
