// Package config turns /etc/smartnat.yaml and the SMARTNAT_… environment into a validated Config. Unknown keys and bad
// values are errors that name the key. It is pure but for reading the file that it is given: it starts nothing.
package config
