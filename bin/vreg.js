#!/usr/bin/env node
// Runs the built program: `npm ci` builds it, and so does `npm run build`.
require('../dist/boot.cjs');
