/** Ages and times as text. */

/** `12 s`, `5 min`, `3 h`, `2 d`: an age in milliseconds. */
export function ageText(ms: number): string {
  if (Number.isNaN(ms)) return '–';
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

const NUMBER = new Intl.NumberFormat('en');

/** `12,345` */
export function numberText(value: number): string {
  return NUMBER.format(value);
}

/** `2026-11-29 16:04:05`, in the time zone of the user. */
export function timeText(time: number | string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return '–';
  const two = (value: number) => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** `16:04`, in the time zone of the user. */
export function hourText(time: number): string {
  return timeText(time).slice(11, 16);
}

/** `1 VM`, `3 VMs` */
export function vmsText(count: number): string {
  return `${numberText(count)} ${count === 1 ? 'VM' : 'VMs'}`;
}
