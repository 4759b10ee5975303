"""The prompt syntax of the web UIs, as pure functions of text."""
