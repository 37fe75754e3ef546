/** The sections of the skill: for each task the `vreg` commands, and the same with curl. A test runs all of them in their order. */

export interface Recipe {
  title: string;
  text: string;
  /** Shell lines with `vreg`. */
  vreg?: string;
  /** Shell lines with curl and jq, which do the same. */
  curl?: string;
  /** A paragraph below the blocks. */
  after?: string;
}

/** A shell function that calls curl with the token, which the list of processes does not show. */
export const AUTHORIZED = `authorized() { printf 'Authorization: Bearer %s' "$VERS_AUTH_TOKEN" | curl -H @- "$@"; }`;

export const RECIPES: readonly Recipe[] = [
  {
    title: 'Find out which VM this is',
    text: 'Do this first, above all after a session was lost: the VM may have been restored or cloned meanwhile. The exit code is 9 if this VM is a clone whose id another VM holds; see [Clones](#clones).',
    vreg: 'vreg whoami',
    curl: `curl -fsS "$VERS_INFRA_URL/health"
echo "$VERS_VM_ID"`,
  },
  {
    title: 'Register',
    text: 'Register this VM so that others discover it. `--if-exists update` makes the command repeatable: without it, an id that is taken is an error (exit code 4, HTTP 409).',
    vreg: `vreg register --if-exists update
vreg register abc-123-def --name billing --role lieutenant --address abc-123-def.vm.vers.sh --service pi-rpc:3001 --meta task="process invoices"
vreg register infra-1 --name infra --role infra --service board:3000/health --service registry:3000/health`,
    curl: `curl -fsS -X POST "$VERS_INFRA_URL/registry/vms" -H "Content-Type: application/json" -d '{
  "id": "abc-456-def",
  "name": "reports",
  "role": "lieutenant",
  "address": "abc-456-def.vm.vers.sh",
  "registeredBy": "orchestrator",
  "services": [{"name": "pi-rpc", "port": 3001}],
  "metadata": {"task": "write reports"}
}'`,
    after:
      'Roles: infra, lieutenant, worker, golden, custom. After you create a lieutenant or a worker, register it too. `--parent ID` (`parentVmId`) names the VM from which it was created.',
  },
  {
    title: 'Discover',
    text: 'Discovery returns only VMs that are running and whose lease has not expired: they have sent a heartbeat within the last 5 minutes, unless the registry is configured otherwise. Use it for lookups; a list also contains VMs that are stale, paused or stopped.',
    vreg: `vreg discover lieutenant
vreg addr lieutenant
vreg wait lieutenant --for live --timeout 30s
vreg ls --role worker --status running
vreg get abc-123-def -o json`,
    curl: `curl -fsS "$VERS_INFRA_URL/registry/discover/lieutenant" | jq -r '.vms[].address'
curl -fsS "$VERS_INFRA_URL/registry/vms?role=worker&status=running"
curl -fsS "$VERS_INFRA_URL/registry/vms/abc-123-def"`,
    after: 'In a script: `INFRA=$(vreg addr infra) || exit` prints one address, or nothing and a meaningful exit code.',
  },
  {
    title: 'Find the infra VM',
    text: 'The infra VM runs the board, the feed and other services. `vreg url` also selects the service and its port.',
    vreg: `INFRA=$(vreg addr infra)
vreg url infra --service board --path /board/tasks`,
    curl: `INFRA=$(curl -fsS "$VERS_INFRA_URL/registry/discover/infra" | jq -er '.vms[0].address')
echo "http://$INFRA:3000/board/tasks"`,
  },
  {
    title: 'Send heartbeats',
    text: 'Without heartbeats the lease of a VM expires, after 5 minutes by default: the VM is then stale, and discovery omits it. Send one every minute. The agent does that in the background, registers the VM again if the registry has lost it, and detects clones; prefer it to a loop.',
    vreg: `vreg daemon agent --detach
vreg daemon status
vreg heartbeat abc-123-def`,
    curl: `curl -fsS -X POST "$VERS_INFRA_URL/registry/vms/abc-123-def/heartbeat"`,
    after: 'One agent per VM is enough: a second one is refused, and `vreg daemon status` shows whether one runs.',
  },
  {
    title: 'Recover after a session was lost',
    text: '1. Find out [which VM this is](#find-out-which-vm-this-is). 2. Register it again: that is harmless if it is registered. 3. Look who else is there, and compare that with the tasks that you had given out. 4. Check for [stale VMs](#find-stale-vms).',
    vreg: `vreg whoami -q
vreg register --if-exists update
vreg status
vreg ls --status running
vreg tree
vreg history abc-123-def`,
    curl: `curl -fsS -X PATCH "$VERS_INFRA_URL/registry/vms/$VERS_VM_ID" -H "Content-Type: application/json" -d '{"status": "running"}'
curl -fsS "$VERS_INFRA_URL/registry/vms?status=running" | jq '.vms[] | {id, name, role, address, metadata}'`,
  },
  {
    title: 'Find stale VMs',
    text: 'A stale VM has crashed, is unreachable, or lost its agent. Look at it before you remove its entry; `prune` without `--dry-run` removes the entries of VMs that have been silent for long.',
    vreg: `vreg ls --stale
vreg why abc-123-def
vreg prune --older-than 1h --dry-run`,
    curl: `curl -fsS "$VERS_INFRA_URL/registry/vms" | jq '.vms[] | select(.status == "running" and (.lastSeen | sub("[.][0-9]+Z$"; "Z") | fromdateiso8601) < now - 300) | {id, name, lastSeen}'`,
  },
  {
    title: 'Update and remove',
    text: 'The API replaces `services` and `metadata` as a whole; `vreg update --meta` changes single keys. Remove the entry of a VM when you destroy the VM. `vreg daemon stop agent` also sets the status of this VM to `stopped`, so use it only when this VM is going away.',
    vreg: `vreg update abc-123-def --meta task="send reminders"
vreg pause abc-123-def
vreg resume abc-123-def
vreg rm abc-123-def --yes
vreg daemon stop agent`,
    curl: `curl -fsS -X PATCH "$VERS_INFRA_URL/registry/vms/abc-456-def" -H "Content-Type: application/json" -d '{"status": "paused"}'
curl -fsS -X DELETE "$VERS_INFRA_URL/registry/vms/abc-456-def"`,
  },
  {
    title: 'Clones',
    text: 'A VM that was copied from a snapshot has the id, the settings and the memory of the original. If `vreg whoami` says that this VM is a clone, do not act as the original: do not update, stop or remove VMs in its name. Look at the conflict, and continue under a new id, which the agent chooses; `vreg whoami -q` then prints it.',
    vreg: `vreg conflicts
vreg tree "$VERS_VM_ID" --clones
vreg daemon agent --on-clone rebirth --detach`,
    curl: `curl -fsS "$VERS_INFRA_URL/registry/conflicts" | jq '.conflicts[] | {id, state, rebornAs}'`,
  },
];
