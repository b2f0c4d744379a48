import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.Arrays;
import java.util.Random;

/** For each JDBC URL: rows in a batch, a transaction that is rolled back, and a large value in both directions. */
public class Databases {
    static final int ROWS = 1000;

    public static void main(String[] urls) throws Exception {
        for (String url : urls) {
            try (Connection connection = DriverManager.getConnection(url)) {
                check(connection, url.startsWith("jdbc:postgresql:") ? "BYTEA" : "LONGBLOB");
                System.out.println(connection.getMetaData().getDatabaseProductName());
            }
        }
    }

    static void check(Connection connection, String blob) throws Exception {
        try (var statement = connection.createStatement()) {
            statement.execute("DROP TABLE IF EXISTS from_java");
            statement.execute("CREATE TABLE from_java (n INT, data " + blob + ")");
        }
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO from_java (n) VALUES (?)")) {
            for (int n = 1; n <= ROWS; n++) {
                insert.setInt(1, n);
                insert.addBatch();
            }
            insert.executeBatch();
        }
        connection.commit();
        try (var statement = connection.createStatement()) {
            statement.executeUpdate("DELETE FROM from_java");
        }
        connection.rollback();
        byte[] data = new byte[1_000_000];
        new Random(1).nextBytes(data);
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO from_java VALUES (0, ?)")) {
            insert.setBytes(1, data);
            insert.executeUpdate();
        }
        connection.commit();
        try (var statement = connection.createStatement()) {
            ResultSet sum = statement.executeQuery("SELECT SUM(n) FROM from_java");
            sum.next();
            expect(sum.getLong(1) == ROWS * (ROWS + 1L) / 2, "the sum");
            ResultSet stored = statement.executeQuery("SELECT data FROM from_java WHERE n = 0");
            stored.next();
            expect(Arrays.equals(stored.getBytes(1), data), "the large value");
        }
    }

    static void expect(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException(what + " is wrong");
        }
    }
}
