#!/usr/bin/env node
// Runs the built program. `npm ci` and `npm run build` build it.
require('../dist/boot.cjs');
