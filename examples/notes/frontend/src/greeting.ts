// Edit me while the page is open.
export const greeting = "Notes for two players";
