// Package browser only has tests. They open the page of package inspect in Chromium, headless. They need the
// programs chromium, tshark and npm; npm gets axe-core, which checks that people with disabilities can use the page.
//
// With -update the tests write the pictures of the page in docs/.
package browser
