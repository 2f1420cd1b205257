// How the page is built: one entry, the editor and the terminal in chunks of
// their own, nothing inlined that the content security policy would refuse.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: "es2023",
    outDir: "dist",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    manifest: "manifest.json",
    chunkSizeWarningLimit: 600,
  },
});
