/** Light or dark: as the system, or as the user has chosen in this browser. */
import { effect, signal } from '@preact/signals';

const THEMES = ['system', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

/** Name in the storage of the browser, which all tabs share. */
const KEY = 'vreg-theme';

export const theme = signal<Theme>(stored());

function stored(): Theme {
  const found = storage()?.getItem(KEY) as Theme | null | undefined;
  return found && THEMES.includes(found) ? found : 'system';
}

/** Undefined if the browser blocks the storage of the page. */
function storage(): Storage | undefined {
  try {
    return localStorage;
  } catch {
    return undefined;
  }
}

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});
addEventListener('storage', () => {
  theme.value = stored();
});

/** A button that changes to the next theme. */
export function ThemeButton() {
  const change = () => {
    theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!;
    storage()?.setItem(KEY, theme.value);
  };
  const label = `Theme: ${theme.value}`;
  return (
    <button type="button" class="quiet theme" aria-label={label} title={label} onClick={change}>
      <i aria-hidden="true" />
    </button>
  );
}
