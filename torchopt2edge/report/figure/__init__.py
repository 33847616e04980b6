"""The charts of every report, drawn as SVG: inline in the pages, and as files for Markdown."""
