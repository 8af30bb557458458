// Package crdb is what Dex needs of the module of this name, whose present versions have another signature.
package crdb

import "database/sql"

// ExecuteTx runs fn in a transaction.
func ExecuteTx(db *sql.DB, fn func(*sql.Tx) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		tx.Rollback()
		return err
	}
	return tx.Commit()
}
