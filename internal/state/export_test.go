package state

import "crypto/sha256"

// Hash returns the SHA-256 of all that a View holds.
func (v View) Hash() [sha256.Size]byte {
	sum := sha256.New()
	v.HashTo(sum)
	return [sha256.Size]byte(sum.Sum(nil))
}
