"""The packages that the project depends on: their versions, hashes, licences and known vulnerabilities."""
